default_access.enabled = false
load_script("/srv/wireplumber/access.lua")
alsa_monitor.enabled = false
v4l2_monitor.enabled = false
libcamera_monitor.enabled = false
