"""What leaves this machine for the Hugging Face hub: what may be in it, and how it is sent."""
