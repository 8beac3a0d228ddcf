"""Names of PyTorch's that npdp has not, with what to write instead: one table, which packages and classes ask.

    npdp.nonsense          AttributeError: module 'npdp' has no attribute 'nonsense'
    npdp.vmap              AttributeError: module 'npdp' has no attribute 'vmap': write the operation over ...
    x.half()               AttributeError: Tensor has no half: npdp computes in float32 and float64
"""

from __future__ import annotations

from typing import NoReturn

NO_GPU = "npdp computes on CPUs: leave it out"
FLOATS = "npdp computes in float32 and float64"
RANKS = "npdp.nn.DataParallel(model) trains over ranks; collectives are npdp.allreduce, npdp.broadcast and so on"
NO_COMPILER = "npdp has no compiler: call the model itself"
NOT_DRAWN = "every sample is used exactly once: DataLoader(dataset, batch_size, shuffle=True, seed=...)"
OF_TWO = "an optimiser there is, or write one: a subclass of npdp.optim.Optimizer with `update` (npdp/optim/sgd.py)"
CONVOLUTION = "npdp has Conv1d, Conv2d, MaxPool and AvgPool of one and two axes"
COLLECT = "a dataset gives (inputs, label), and batches are stacked; pad in the dataset's __getitem__"
NO_GRADIENT = "np's of x.numpy(), where no gradient is wanted; else an operation (npdp/autograd/operation.py)"
AS_A_SUM = "npdp.einsum of F.one_hot(index), or nn.Embedding, whose gradient adds up rows"
PRODUCT = "x.log().sum(dim).exp(), of what is positive"
OF_NUMPY = ("median", "nanmedian", "quantile", "mode", "kthvalue", "cummax", "cummin", "tan", "asin", "acos", "atan",
            "atan2", "sinh", "cosh", "fmod", "remainder", "histc", "searchsorted", "bucketize", "diff")  # fmt: skip
IN_PLACE = "a change in place is not recorded: leave out the underscore, or inplace=True"
AN_OPERATION = "write one function of arrays with its gradient rule, under @operation (npdp/autograd/operation.py)"

MISSING: dict[str, dict[str, str]] = {
    "npdp": {
        **dict.fromkeys(("half", "float16", "bfloat16", "complex64", "complex128", "cfloat", "float8_e4m3fn"), FLOATS),
        **dict.fromkeys(("FloatTensor", "DoubleTensor", "LongTensor", "IntTensor", "BoolTensor", "ByteTensor"),
                        "npdp.tensor(values, dtype=...)"),
        **dict.fromkeys(("distributed", "multiprocessing", "rpc"), RANKS),
        **dict.fromkeys(("jit", "export", "onnx", "fx", "quantization", "ao"), NO_COMPILER),
        **dict.fromkeys(("amp", "autocast", "GradScaler"), f"{FLOATS}: leave it out"),
        **dict.fromkeys(("func", "vmap"), "write the operation over an axis of the batch"),
        **dict.fromkeys(("hub", "profiler", "testing", "package"), "there is none; cProfile and py-spy see all"),
        **dict.fromkeys(("sparse", "sparse_coo_tensor", "sparse_csr_tensor"),
                        "rows that are mostly zero are npdp.data.SparseRows, for nn.SparseLinear"),
        **dict.fromkeys(("fft", "stft", "linalg", "special", "polar", "complex", "view_as_complex"),
                        f"np.{{fft,linalg}} of x.numpy() where no gradient is wanted; else {AN_OPERATION}"),
        **dict.fromkeys(("get_rng_state", "set_rng_state"), "npdp.base.random.default_generator().bit_generator.state"),
        **dict.fromkeys(("prod", "cumprod"), PRODUCT),
        **dict.fromkeys(OF_NUMPY, NO_GRADIENT),
        **dict.fromkeys(("cdist", "kron", "tensordot", "cross"), "npdp.einsum, or broadcast: x[:, None] - y[None]"),
        **dict.fromkeys(("relu_", "sigmoid_", "tanh_", "dropout_"), IN_PLACE),
        "dropout": "a layer, nn.Dropout, which knows its place in the model: by it ranks mask alike",
        "scatter": "x.clone(), then .scatter_ inside no_grad(), or F.one_hot(labels)",
        **dict.fromkeys(("index_add", "scatter_add"), AS_A_SUM),
        "multi_head_attention_forward": "nn.MultiheadAttention",
    },
    "npdp.nn": {
        **dict.fromkeys(("Conv3d", "ConvTranspose1d", "ConvTranspose2d", "Unfold", "Fold", "Upsample"), CONVOLUTION),
        **dict.fromkeys(("AdaptiveAvgPool1d", "AdaptiveMaxPool2d"), "nn.AvgPool2d; of all places x.mean(dim=(2, 3))"),
        **dict.fromkeys(("SyncBatchNorm", "convert_sync_batchnorm"), "nn.BatchNorm2d, which is over the global batch"),
        **dict.fromkeys(("InstanceNorm2d", "GroupNorm"), "nn.LayerNorm of a reshaped input"),
        **dict.fromkeys(("RNN", "RNNCell", "GRUCell", "LSTMCell"), "nn.GRU or nn.LSTM, a whole sequence at once"),
        **dict.fromkeys(("Transformer", "TransformerEncoder", "TransformerEncoderLayer", "TransformerDecoder"),
                        "a block of nn.MultiheadAttention, nn.LayerNorm and nn.Linear"),
        **dict.fromkeys(("Dropout1d", "Dropout2d", "AlphaDropout"), "nn.Dropout"),
        **dict.fromkeys(("BCELoss", "PoissonNLLLoss"), "nn.BCEWithLogitsLoss, of what comes before the sigmoid"),
        **dict.fromkeys(("KLDivLoss", "CTCLoss", "TripletMarginLoss", "CosineEmbeddingLoss"),
                        "its formula, of a tensor's operations"),
        **dict.fromkeys(("Bilinear", "PixelShuffle", "EmbeddingBag"), "its formula, of a tensor's operations"),
        "Unflatten": "x.unflatten(dim, sizes) in forward",
        **dict.fromkeys(("ReLU6", "Hardtanh"), "x.clamp(low, high)"),
        **dict.fromkeys(("PReLU", "SELU", "CELU", "Mish", "Hardswish"), "nn.LeakyReLU, ELU, GELU or SiLU"),
        **dict.fromkeys(("ParameterList", "ParameterDict"), "parameters as attributes, by setattr"),
        "quantized": FLOATS,
    },
    "npdp.nn.functional": {
        **dict.fromkeys(("dropout", "dropout1d", "dropout2d"),
                        "a layer, nn.Dropout, which knows its place in the model: by it ranks mask alike"),
        **dict.fromkeys(("conv3d", "conv_transpose2d", "unfold", "fold", "interpolate", "grid_sample"), CONVOLUTION),
        "pad": "npdp.cat of x and npdp.zeros, or padding= of a convolution",
        **dict.fromkeys(("binary_cross_entropy", "kl_div"),
                        "F.binary_cross_entropy_with_logits, of what comes before the sigmoid"),
        **dict.fromkeys(("relu_", "elu_", "leaky_relu_"), IN_PLACE),
        **dict.fromkeys(("gumbel_softmax", "cosine_embedding_loss"), "its formula, of a tensor's operations"),
        "multi_head_attention_forward": "nn.MultiheadAttention",
    },
    "npdp.optim": {
        **dict.fromkeys(("RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop", "Adafactor",
                         "Muon"), OF_TWO),
        "LBFGS": "SGD or Adam: `step` takes no closure",
        "SparseAdam": "SGD, which updates the rows that a batch touches (nn.Embedding(..., sparse=True))",
        "swa_utils": "a copy of the parameters that you average yourself: state_dict gives copies",
    },
    "npdp.data": {
        **dict.fromkeys(("Sampler", "RandomSampler", "SequentialSampler", "SubsetRandomSampler", "BatchSampler",
                         "WeightedRandomSampler"), NOT_DRAWN),
        "DistributedSampler": "nothing: DataLoader gives each rank its part of every global batch",
        **dict.fromkeys(("IterableDataset", "ChainDataset"), "a dataset with __len__ and __getitem__"),
        **dict.fromkeys(("default_collate", "get_worker_info"), COLLECT),
    },
    "Tensor": {
        **dict.fromkeys(("cuda", "xpu", "pin_memory", "share_memory_"), NO_GPU),
        **dict.fromkeys(("half", "bfloat16", "cfloat", "is_quantized"), FLOATS),
        **dict.fromkeys(("prod", "cumprod"), PRODUCT),
        **dict.fromkeys(OF_NUMPY, NO_GRADIENT),
        **dict.fromkeys(("index_add", "index_add_", "scatter_add", "scatter_add_", "index_put_"), AS_A_SUM),
        **dict.fromkeys(("to_sparse", "sparse_dim"), "rows that are mostly zero are npdp.data.SparseRows"),
        "scatter": "x.clone(), then .scatter_ inside no_grad(), or F.one_hot(labels)",
        "apply_": "x.copy_(f(x.numpy()))",
        "retain_grad": "only leaves keep a gradient: differentiate from x.detach() on, or x.register_hook of a leaf",
        "register_post_accumulate_grad_hook": "register_hook, which is called once the gradient is complete",
    },
    "Module": {
        "cuda": NO_GPU,
        **dict.fromkeys(("half", "bfloat16"), FLOATS),
        **dict.fromkeys(("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"),
                        "put it into forward, or tensor.register_hook for a leaf's gradient"),
    },
    "npdp.autograd": {
        "Function": AN_OPERATION,
        "grad": "loss.backward(), then .grad of the leaves; there are no gradients of gradients",
        **dict.fromkeys(("functional", "jacobian", "hessian"), "there are no gradients of gradients"),
        "Variable": "the tensor itself",
        **dict.fromkeys(("set_detect_anomaly", "detect_anomaly", "profiler"), "x.isnan().any() where you doubt"),
    },
}  # fmt: skip


class Missing:
    """Attribute of a class that raises: AttributeError, with what to write instead."""

    def __init__(self, owner: str, name: str) -> None:
        self.said = f"{owner} has no {name}: {MISSING[owner][name]}"

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(self.said)


def missing(module: str, name: str) -> AttributeError:
    """Return the error of a name that a module has not; where the table knows it, with what to write instead."""
    instead = MISSING.get(module, {}).get(name)
    return AttributeError(f"module {module!r} has no attribute {name!r}" + (f": {instead}" if instead else ""))
