-- It lets in all clients, once there is a sink for them. Earlier ones wait. "flatpak" is what PipeWire
-- calls a client whose process it does not see.
clients = ObjectManager {
  Interest {
    type = "client",
    Constraint { "pipewire.access", "=", "flatpak" },
  }
}
clients:connect("object-added", function (_, client)
  client:update_permissions { ["any"] = "all" }
end)

sinks = ObjectManager {
  Interest {
    type = "SiLinkable",
    Constraint { "item.node.type", "=", "device" },
    Constraint { "active-features", "!", 0, type = "gobject" },
  }
}
local open = false
sinks:connect("object-added", function ()
  if not open then
    open = true
    clients:activate()
  end
end)
sinks:activate()
