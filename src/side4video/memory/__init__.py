"""Will it fit, what takes the room, and how long will it take: answered before anything is downloaded."""
