"""Real models, served as OpenVINO Model Server's users have them, against OpenVINO called directly."""
