// Package config turns text into specs: syntax, defaults and messages that name
// file, line, column and key.
//
//	services, err := config.Load([]string{"/etc/activator"}, config.HostEnv())
//	var wrong config.Errors // everything that is wrong, in all files
//	if errors.As(err, &wrong) { ... }
//	os.Stdout.Write(config.AppendTOML(nil, services[0].Service)) // what is effective
//
// The tables of keys in keys.go are the reference: name, kind, place, default and
// meaning. It is pure; it touches nothing but the files it is told to read, and
// looks nothing up: whether a path, a user or an interface exists shows when
// it is needed.
package config
