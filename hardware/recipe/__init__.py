"""What mkosi is told: packages, kernel modules, partitions; `image` fills in the rest."""
