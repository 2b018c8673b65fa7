"""Boots real kernels with payload disks attached, and looks at what became of them."""
