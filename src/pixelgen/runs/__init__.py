"""Where trained weights come from and go to: runs, exports, published checkpoints, averages of any width."""
