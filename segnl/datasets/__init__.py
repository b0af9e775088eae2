"""Floor 2: files to samples and batches. A file's name is the part's name in a config: `data: {name: folder}`."""
