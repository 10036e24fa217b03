"""What makes a model large and fast, and changes nothing but rounding.

parallel            `Parallel`, `Layout`: FSDP and micro-batches, on any number of processes
sequence            sequence parallelism: processes trade frames for heads around attention
checkpoints         `SharedRun`, `export`: sharded states, resumed by any number of processes
adapters            `Lora`: low-rank adapters, in a file of their own
host_kv             `HostKVStore`: pages in host memory, those in use on the device
host_blocks         `HostBlocks`: host memory that is pinned in large blocks, ahead of its use
streams             `Streams`: copies in and out beside the computation
quantized_kv        `QuantizedKVStore`: keys and values of one byte a number
fused               a chunk's clean pass and the next one's first level in one call
acceleration        `Speed`, `SPEEDS`, `accelerate`: exact and fast ways to run the same model
epilogues           the feed-forward's GELU in the epilogue of its product
fp8_linears         linears whose weights and inputs are multiplied in fp8
graphs              the later levels of a chunk replayed as one CUDA graph
ledger              `predict_seconds`: what a run costs a GPU, counted on `meta` tensors
ceilings            `Card`: what five cards can do at most, each figure with its source
cost                `Plan`: memory and seconds of a training, from shapes alone
"""
