"""Training and evaluation of side networks; the only folder that knows Lightning Fabric."""
