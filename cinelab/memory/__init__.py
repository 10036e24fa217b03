"""What a chunk attends to of the film so far, in training and in streaming.

policy            `Policy` and those at hand: `Full`, `Window`, `Sink`, `ShotSink`, `CAMR`,
                  `CausalCine`, `RandomTopK`, `Oracle`
routing           `relevance` of pages to a chunk's queries, and the `choose` under a budget
context           `BidirectionalContext`, `CausalContext`, `TeacherForcingContext`,
                  `KnownHistory`: a whole clip in one pass
packed            attention of whole clips with packed positions
cache             `KVCache`: one chunk after another
open_chunk        `OpenChunk`: what the chunk being made attends to
passes            what the passes of that chunk hand on to each other
store             `KVStore`: where keys and values lie; `Storage` chooses one
summary           `Summary`: the pooled keys that a long history is searched by
policy_registry   `policy_named`: policies by name, budget and settings
policy_io         policies as plain dictionaries, for files
"""
