"""What one peer computes: inner steps, pseudo-gradients, outer steps and the validation loss."""
