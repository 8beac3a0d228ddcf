"""Models that are built in, each one short file, written as a user of npdp would write it.

    cnn.py    images: LeNet-5's shape, with batch normalisation
    gru.py    sequences: a recurrent classifier
    gpt.py    text: a transformer, with attention.py; generate.py, token by token; gpt2_weights.py, those of GPT-2
"""
