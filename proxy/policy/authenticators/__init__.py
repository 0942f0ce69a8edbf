"""Who a device is: one module per way of proving it, and the chain that asks them in order."""
