"""Generator of the context probe's images: the class of a target can only be read from cues elsewhere in the image."""
