"""Models by name or folder, whole: network, codec, text encoder and settings.

checkpoints       `load`, `find`, `save_checkpoint`: a model by name, folder or file
accelerated       `load_at_speed`: the same, run at a named speed
bundle            `Bundle`: the parts of a model together
wan               `load_wan`: a folder of Wan2.1
footprint         `footprint`, `FilmSpec`, `require_room`: the memory of a film before it is begun
codec_footprint   `CodecFootprint`: what a codec adds to it
"""
