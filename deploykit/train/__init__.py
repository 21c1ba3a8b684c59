"""ONE training loop, on Accelerate, used by everything that trains.

| file | what it has |
| --- | --- |
| `options`, `scores` | what is asked for; what epochs are chosen by. Standard library only |
| `objective` | the nouns: `Step` goes into a `Loss`, named `Term`s come out |
| `tasks` | what the labels ask for: the losses of outputs, and how good they are |
| `loop` | `train`: epochs, the best one, checkpoints, what is said when it goes wrong |
| `run`, `learning` | one step on its device; network and loss as one module |
| `samples`, `draws` | rows and random numbers: by seed, epoch and step, whoever shares them |
| `pixels`, `augment`, `mix` | augmentation of a whole batch, by image and by pair |
| `global_norm` | batch normalisation over the parts of all processes |
| `optimizer`, `schedule`, `average` | gradients to steps; the rate; the mean of the weights |
| `fit`, `room` | before the first step: does the data fit the network, and a step the memory? |
| `watch`, `checkpoint`, `curves` | terms over an epoch; where a run stands; TensorBoard |

Nothing here depends on where a run was interrupted or on how many processes share it: a draw is a
function of seed, epoch and step, a batch of seed and epoch, the rate of the step.
"""
