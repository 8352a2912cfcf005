"""Ways into the worlds from other projects' trainers, harnesses and servers, a module each.

Each needs the package of that project (an extra of the same name where there is one) and builds on
`eto_agents.chat_episode.ChatEpisode`, so that an agent gets the same score through all of them.
"""
