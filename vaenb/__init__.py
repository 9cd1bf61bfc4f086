"""vaenb: an interactive companion on the robustness of variational autoencoders."""
