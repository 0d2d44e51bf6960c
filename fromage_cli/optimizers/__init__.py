"""What is known of each optimizer: one record each, and how its settings are found. Free of torch until one steps."""
