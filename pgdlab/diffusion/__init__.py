"""The policy's parts: schedule, denoiser, kernel, space, initial distribution, and the policy made of them."""
