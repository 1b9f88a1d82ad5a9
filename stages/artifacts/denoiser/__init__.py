"""What stages read and write of denoisers: their folders, and images as they take them."""
