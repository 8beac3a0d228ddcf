# %% [markdown]
# # 1. SGD on one rank
#
# **At the end you will know** what one step of stochastic gradient descent (SGD) computes, by hand and with npdp's
# autograd, and what the words *sample*, *batch*, *iteration* and *epoch* mean. All later lessons cut this one
# computation into parts, and promise the same result.
#
# You need Python and NumPy. Reading takes about 10 minutes, running a second.

# %%
import numpy as np

from npdp import Tensor, nn, optim

# %% [markdown]
# ## The task
#
# We look for weights. There are $N = 1000$ *samples*; each has 3 numbers $x_i$ and one answer $y_i$, which was made by
# weights that we pretend not to know, plus some noise:
#
# $$ y_i = x_i \cdot w_\text{true} + \text{noise}_i, \qquad \text{noise of standard deviation } 0.1 $$

# %%
generator = np.random.default_rng(0)
true_weight = np.array([[1.0], [-2.0], [0.5]])  # (features, 1)
x = generator.standard_normal((1000, 3))  # (samples, features)
y = x @ true_weight + 0.1 * generator.standard_normal((1000, 1))  # (samples, 1)

# %% [markdown]
# ## The formulas
#
# The *loss* says how wrong weights $w$ are: the mean squared error over $n$ samples,
#
# $$ L(w) = \frac{1}{n} \sum_{i=1}^{n} (x_i \cdot w - y_i)^2 . $$
#
# Its *gradient* says in which direction the loss grows. It is a mean over samples, too; remember that for lesson 2:
#
# $$ \nabla L(w) = \frac{1}{n} \sum_{i=1}^{n} 2\, (x_i \cdot w - y_i)\, x_i . $$
#
# A step goes a little against the gradient; $\eta$ is the *learning rate*:
#
# $$ w \leftarrow w - \eta\, \nabla L(w) . $$
#
# The gradient over all 1000 samples would cost much for one step. *Stochastic* means that each step takes a few samples
# only, a *batch*, and so an estimate of the gradient. One step is an *iteration*; when every sample has been
# used once, an *epoch* is over.


# %%
def gradient_by_hand(w, inputs, targets):
    """Gradient of the mean squared error."""
    errors = inputs @ w - targets  # (n, 1)
    return 2 * inputs.T @ errors / len(inputs)  # (features, 1), as w


# %% [markdown]
# ## Predict
#
# We train for 5 epochs with batches of 50. The noise cannot be learnt: even the true weights are wrong by it.
# **At which loss, about, will training come to a stop?** Write your number down before you run on; nothing breaks if
# it is wrong.

# %%
prediction = 0.1  # your number

# %% [markdown]
# ## Run


# %%
def train_by_hand(epochs=5, batch_size=50, eta=0.05):
    w = np.zeros((3, 1))
    for epoch in range(epochs):
        for start in range(0, len(x), batch_size):
            batch = slice(start, start + batch_size)
            w -= eta * gradient_by_hand(w, x[batch], y[batch])
        loss = np.mean((x @ w - y) ** 2)
        print(f"epoch {epoch + 1}  loss {loss:.4f}  " + "#" * round(40 * loss / 0.2))
    return w, loss


by_hand, measured = train_by_hand()
print("found", by_hand.ravel().round(3), "true", true_weight.ravel())

# %% [markdown]
# ## Explain

# %%
print(f"You predicted {prediction}; the loss stopped at {measured:.4f}.")
if abs(prediction - measured) < 0.3 * measured:
    print("Well predicted: the noise has standard deviation 0.1, and its mean square is 0.1 * 0.1 = 0.01.")
else:
    print("What is left is the noise. The loss is the mean of its *squares*, and 0.1 squared is 0.01:")
    print("not 0.1, and not 0 either, however long we train.")
assert 0.007 < measured < 0.013 and np.abs(by_hand - true_weight).max() < 0.02

# %% [markdown]
# ## The same with npdp's autograd
#
# For large models nobody writes gradients by hand. npdp records what is computed, and goes back through it by the
# chain rule: `loss.backward()` leaves the gradient of each parameter in its `.grad`. The loop is PyTorch's, with other
# imports.

# %%
model = nn.Linear(3, 1, bias=False, dtype=np.float64)
model.weight.data[...] = 0  # as above; as a rule weights begin as small random numbers
criterion = nn.MSELoss()
optimizer = optim.SGD(model.parameters(), lr=0.05)
for _ in range(5):
    for start in range(0, len(x), 50):
        inputs, targets = Tensor(x[start : start + 50]), Tensor(y[start : start + 50])
        loss = criterion(model(inputs), targets)  # forward
        optimizer.zero_grad()
        loss.backward()  # gradients
        optimizer.step()  # w <- w - eta * gradient

difference = np.abs(model.weight.data.T - by_hand).max()
print(f"largest difference to the weights that we found by hand: {difference:.1e}")
assert difference < 1e-12

# %% [markdown]
# That is 0, or not far from $10^{-16}$, the distance between two neighbouring 64-bit numbers near 1. Computers round
# after each addition, so the *order* of additions shows in the last digits. You will meet this again: several ranks add
# in another order than one, and "the same result" in these lessons means: up to rounding.

# %%
print("(0.1 + 0.2) + 0.3 =", (0.1 + 0.2) + 0.3)
print("0.1 + (0.2 + 0.3) =", 0.1 + (0.2 + 0.3))
assert (0.1 + 0.2) + 0.3 != 0.1 + (0.2 + 0.3)

# %% [markdown]
# ## Exercises
#
# 1. How many iterations were that? (samples / batch size * epochs; count them in the loop to be sure.)
# 2. Set `eta` to 0.5, then to 1.2. Why does the loss explode with the second? Look at the formula of the step.
# 3. Batches of 1, and one batch of 1000, for 5 epochs each: which comes nearer to the true weights, which jumps more?
# 4. Put a bias into `gradient_by_hand`: $y_i \approx x_i \cdot w + b$. Compare with `nn.Linear(3, 1)`.
#
# **Read next:** [sgd.py](../../npdp/optim/sgd.py), the update rule as npdp has it, with momentum. Then
# [lesson 2](02_data_parallel.ipynb): the same on four ranks.
