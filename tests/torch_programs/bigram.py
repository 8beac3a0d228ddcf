"""The bigram language model of nanoGPT's lecture: batches by randint and stack, cross entropy, generation."""

import torch
import torch.nn as nn
from torch.nn import functional as F

batch_size, block_size = 4, 8


class BigramLanguageModel(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx, targets=None):
        logits = self.token_embedding_table(idx)  # (B, T, C)
        if targets is None:
            return logits, None
        B, T, C = logits.shape
        logits = logits.view(B * T, C)
        targets = targets.view(B * T)
        return logits, F.cross_entropy(logits, targets)

    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            logits, loss = self(idx)
            logits = logits[:, -1, :]
            probs = F.softmax(logits, dim=-1)
            idx_next = torch.multinomial(probs, num_samples=1)
            idx = torch.cat((idx, idx_next), dim=1)
        return idx


def run(given):
    text = given["text"]
    chars = sorted(list(set(text)))
    stoi = {ch: i for i, ch in enumerate(chars)}
    data = torch.tensor([stoi[c] for c in text], dtype=torch.long)
    train_data, val_data = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]

    def get_batch(split):
        source = train_data if split == "train" else val_data
        ix = torch.randint(len(source) - block_size, (batch_size,))
        x = torch.stack([source[i : i + block_size] for i in ix])
        y = torch.stack([source[i + 1 : i + block_size + 1] for i in ix])
        return x.to("cpu"), y.to("cpu")

    model = BigramLanguageModel(len(chars)).double()
    model.token_embedding_table.weight.data.copy_(torch.tensor(given["table"])[: len(chars), : len(chars)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(1337)
    losses = []

    @torch.no_grad()
    def estimate_loss():
        model.eval()
        found = torch.zeros(3)
        for k in range(3):
            found[k] = model(*get_batch("val"))[1].item()
        model.train()
        return found.mean()

    for step in range(30):
        xb, yb = get_batch("train")
        logits, loss = model(xb, yb)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert torch.isfinite(estimate_loss())
    context = torch.zeros((1, 1), dtype=torch.long)
    tokens = model.generate(context, max_new_tokens=20)[0].tolist()
    return [*losses, *map(float, tokens)]
