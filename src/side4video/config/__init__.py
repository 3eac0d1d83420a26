"""Settings: typed, frozen, validated. Reading them needs neither torch nor the rest of the package."""
