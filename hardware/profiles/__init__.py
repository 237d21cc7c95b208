"""Facts of boards, one file each; `boards` reads and checks them."""
