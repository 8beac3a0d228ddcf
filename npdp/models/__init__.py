"""Models that are built in, each one short file, written as a user of npdp would write it.

    cnn.py    images: LeNet-5's shape, with batch normalisation
    gru.py    sequences: a recurrent classifier
"""
