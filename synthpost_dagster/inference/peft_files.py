"""What PEFT calls the files of an adapter. Named here because its own constants come only with torch."""

CONFIGURATION, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
