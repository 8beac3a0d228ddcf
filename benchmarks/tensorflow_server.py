"""TensorFlow's ParameterServerStrategy on one machine: a coordinator, one server and two workers, a process each.

    python benchmarks/tensorflow_server.py mlp 1.0      prints the seconds that a step of a worker took

Models and batches are those of `npdp bench iteration`, one thread of computing a worker. It needs TensorFlow, which
npdp does not install.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from itertools import pairwise

import flags
import numpy as np

from npdp.base.errors import InputError
from npdp.bench.models import LEARNING_RATE, MODELS, batch

WORKERS = 2


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for made in sockets:
        made.bind(("127.0.0.1", 0))
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


def serve(kind: str, number: int, cluster: dict[str, list[str]]) -> None:
    """Be a worker or the server, until ended."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=2)
    server = tf.distribute.Server(tf.train.ClusterSpec(cluster), kind, number, "grpc", config=config)
    server.join()


def seconds_a_step(name: str, seconds: float, cluster: dict[str, list[str]]) -> float:
    """Coordinate the steps; return how long a worker took for one."""
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec(cluster), rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    widths, _ = MODELS[name]
    generator = np.random.default_rng(1)
    with strategy.scope():
        weights = [tf.Variable(generator.standard_normal((wide, narrow), dtype=np.float32) * np.float32(wide**-0.5))
                   for wide, narrow in pairwise(widths)]  # fmt: skip
        biases = [tf.Variable(np.zeros(narrow, np.float32)) for narrow in widths[1:]]
    x, y = batch(name)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            activation = tf.constant(x)
            for weight, bias in zip(weights[:-1], biases[:-1]):
                activation = tf.nn.relu(activation @ weight + bias)
            outputs = activation @ weights[-1] + biases[-1]
            if name == "lin10":
                loss = tf.reduce_mean(tf.square(outputs - y))
            else:
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs))
        variables = [*weights, *biases]
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(LEARNING_RATE * gradient)

    def run(count: int) -> float:
        before = time.perf_counter()
        for _ in range(count):
            coordinator.schedule(step)
        coordinator.join()
        return (time.perf_counter() - before) * WORKERS / count

    run(20)
    return run(max(20, int(seconds * WORKERS / run(20))))


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, keeps=False)
    parser.add_argument("model", choices=MODELS, help="what it trains")
    parser.add_argument("seconds", type=flags.SECONDS, help="of the round")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)  # as a worker or the server: kind, number, cluster
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError("TensorFlow is not installed in this Python")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.serve:
        kind, number, cluster = arguments.serve
        serve(kind, int(number), json.loads(cluster))
        return
    ports = [f"127.0.0.1:{port}" for port in free_ports(WORKERS + 2)]
    cluster = {"chief": ports[:1], "ps": ports[1:2], "worker": ports[2:]}
    roles = [("ps", 0), *(("worker", number) for number in range(WORKERS))]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    same = [sys.executable, __file__, arguments.model, str(arguments.seconds), "--serve"]
    helpers = [subprocess.Popen([*same, kind, str(number), json.dumps(cluster)], **quiet) for kind, number in roles]
    code = 1
    try:
        print("round", seconds_a_step(arguments.model, arguments.seconds, cluster), flush=True)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()
        os._exit(code)  # its threads would not end


if __name__ == "__main__":
    flags.run(main)
