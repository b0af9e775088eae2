"""Networks. Blocks are below backbones and heads, which are below the segmenter; no head imports another."""
