package config

import "strings"

// absent are keys of systemd's units, and of Podman's and Compose's files, that have no counterpart here,
// in our form, with what there is instead. A star stands for any end.
var absent = []struct{ words, instead string }{
	{"type", "a service has begun when its program runs; with notify = true, when it says READY=1"},
	{"restart remain_after_exit success_exit_status restart_prevent_exit_status restart_force_exit_status", "a service is started whenever a client is there, and rests after a failure for restart_delay at first"},
	{"start_limit_*", "no service fails for good: it rests for longer each time, up to restart_max_delay"},
	{"unit description documentation", "a service has its file's name; what else is to be said of it is a comment"},
	{"install after before requires wants wanted_by required_by part_of binds_to conflicts requisite depends_on also", "services are not ordered: each is started by its clients, and a client waits in the queue until its service is up"},
	{"exec_start_pre exec_start_post exec_condition", "there is one program: have a shell prepare what it needs and exec it, as in exec = ['/bin/sh', '-c', 'mkdir -p $STATE_DIRECTORY/x && exec app']"},
	{"exec_stop exec_stop_post", "the program is told by stop_signal, and ended after stop_timeout"},
	{"exec_reload", "there is nothing to reload a program by: end it, and its next client starts it"},
	{"environment_file env_file pass_environment unset_environment", "write the variables: environment = { NAME = 'value' }; the host's are not passed on"},
	{"env", "the variables are environment = { NAME = 'value' }"},
	{"working_dir workdir", "it is called working_directory"},
	{"entrypoint", "the program and its arguments are exec, and of a container command in [container]"},
	{"ports publish_port expose", "the host's address is listen in [[socket]], and target the one that the program binds"},
	{"volume volumes mount", "folders are read_only and writable in [sandbox], as 'host:inside'"},
	{"networks network_mode", "the network is network in [sandbox]; none is the default"},
	{"dynamic_user", "every service of root has a user of its own, and that of an ordinary user is that user; user names another one"},
	{"supplementary_groups group_add", "a named user has its groups; others cannot be added"},
	{"private_* protect_* restrict_* lock_personality memory_deny_write_execute remove_ipc keyring_mode proc_subset system_call_architectures security_opt cap_drop", "the sandbox keeps that without a word; what it opens is named by the keys of [sandbox], and docs/security.md says what they open"},
	{"inaccessible_paths exec_paths no_exec_paths", "nothing of the host's is there but what read_only and writable name, and the system's programs"},
	{"device_allow device_policy devices", "there are no devices inside but null, zero, full, random, urandom and tty"},
	{"memory_high memory_low memory_min memory_swap_max memory_limit mem_limit", "the one limit of memory is memory_max"},
	{"cpu_quota cpu_shares cpus allowed_cpus cpu_affinity nice io_weight io_*_max cpu_scheduling_* io_scheduling_*", "of the processor's time there is cpu_weight, and nothing else"},
	{"pids_limit", "it is called tasks_max"},
	{"syslog_* log_*", "what a program prints goes to the log with the service's name in each line; the level is --log-level"},
	{"standard_input", "stdin is /dev/null, and the connection with handover = stdio"},
	{"accept_queue trigger_limit_* poll_limit_*", "the queue is backlog; no limit keeps clients out for good"},
	{"pid_file guess_main_pid", "the program stays in the foreground, and its process is known"},
	{"user_namespace delegate slice", "there is nothing to say: the activator makes these itself"},
	{"pull auto_update", "a container's image is image in [container], and must be there already: nothing is fetched"},
	{"healthcheck health_cmd", "a program that hangs is found by watchdog"},
	{"file_descriptor_store_preserve", "what is stored is kept as long as the service is there"},
}

// explainAbsent says what there is instead of a key, "" if it is none of those.
func explainAbsent(written string) string {
	for _, a := range absent {
		for word := range strings.FieldsSeq(a.words) {
			if begin, end, open := strings.Cut(word, "*"); written == word ||
				open && strings.HasPrefix(written, begin) && strings.HasSuffix(written, end) && len(written) >= len(begin)+len(end) {
				return a.instead
			}
		}
	}
	return ""
}
