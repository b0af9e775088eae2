"""Weight files: safe reading, and strict loading under other projects' names."""
