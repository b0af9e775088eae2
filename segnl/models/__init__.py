"""Floor 2: networks. Blocks < backbones, heads < segmenter; a head never imports a head."""
