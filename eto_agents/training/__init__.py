"""Training: SFT, RFT, trajectory DPO, ETO and PPO; no module here is imported by this one."""
