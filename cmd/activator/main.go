// Command activator binds sockets, waits, and on the first client starts the
// service behind them as a networkless process that inherits the sockets.
//
//	activator --config echo.toml
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"activator/internal/daemon"
	"activator/internal/doctor"
	"activator/internal/kernel/budget"
	"activator/internal/process"
)

// Exit codes.
const (
	exitOK     = 0 // ended as asked
	exitFailed = 1 // failed at run time
	exitUsage  = 2 // the command line or the configuration is wrong
)

func main() {
	if process.IsHelper() {
		process.RunHelper()
	}
	if err := budget.CheckLimit(); err != nil {
		fmt.Fprintf(os.Stderr, "activator: %v\n", err)
		os.Exit(exitFailed)
	}
	process.CloseInherited()
	os.Exit(run(os.Args[1:]))
}

// run runs the command line and returns the exit code.
func run(args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.Execute()
	var failed *runError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &failed) && failed.quiet:
		return failed.code
	case errors.As(err, &failed):
		fmt.Fprintf(os.Stderr, "activator: %v\n", failed.err)
		return failed.code
	}
	fmt.Fprintf(os.Stderr, "activator: %v\nTry 'activator --help'.\n", err)
	return exitUsage
}

// runError is an error of the work, not of the command line.
type runError struct {
	err   error
	code  int
	quiet bool // it has been said already
}

func (e *runError) Error() string { return e.err.Error() }
func (e *runError) Unwrap() error { return e.err }

// failWith gives an error its exit code.
func failWith(err error) error {
	switch {
	case err == nil:
		return nil
	case daemon.IsConfiguration(err):
		fmt.Fprint(os.Stderr, err.Error())
		return &runError{err: err, code: exitCode(err), quiet: true}
	}
	return &runError{err: err, code: exitFailed}
}

// exitCode is that of an error of the work.
func exitCode(err error) int {
	if daemon.IsCurable(err) {
		return exitUsage
	}
	return exitFailed
}

func rootCommand() *cobra.Command {
	var paths []string
	var format, level, memory string
	root := &cobra.Command{
		Use:   "activator --config FILE|DIR...",
		Short: "Start networkless services on their first client",
		Long: `activator binds the sockets of services, waits, and on the first client starts
the service as a process without a network, which inherits the sockets by the
LISTEN_FDS protocol. No systemd, no container engine, no root needed.

SIGHUP reads the configuration again, SIGTERM and SIGINT end everything in order,
one more, a second later or after that, ends at once.`,
		Args:          onlyCommands,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPaths(paths, "--config configs/echo.toml"); err != nil {
				return err
			}
			options, err := buildOptions(paths, format, level)
			if err == nil && cmd.Flags().Changed("memory-max") {
				options.MemoryMax, err = parseMemory(memory)
			}
			if err != nil {
				return err
			}
			err = serveConfig(options)
			if err != nil && format == "json" {
				daemon.LogError(options, err)
				return &runError{err: err, code: exitCode(err), quiet: true}
			}
			return failWith(err)
		},
	}
	root.PersistentFlags().StringArrayVarP(&paths, "config", "c", nil, "configuration: a file, or a folder with its *.toml; may be repeated")
	root.Flags().StringVar(&format, "log-format", "text", "text or json")
	root.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	root.Flags().StringVar(&memory, "memory-max", "", `what all services together may have, such as "512M", by a control group`)
	root.AddCommand(checkCommand(&paths), tryCommand(&paths), doctorCommand(), versionCommand())
	_ = root.MarkPersistentFlagFilename("config", "toml") // completion only
	return root
}

// onlyCommands refuses words behind the program's name that are no command; what looks like a
// configuration was meant as one.
func onlyCommands(cmd *cobra.Command, args []string) error {
	for _, word := range args {
		if _, err := os.Stat(word); err == nil || strings.HasSuffix(word, ".toml") || strings.Contains(word, "/") {
			return fmt.Errorf("%q is no command: did you mean --config %s?", word, strings.Join(args, " --config "))
		}
	}
	return cobra.NoArgs(cmd, args)
}

// checkPaths refuses no configuration, and a name that is empty, as that of a variable without a value.
func checkPaths(paths []string, example string) error {
	switch {
	case len(paths) == 0:
		return fmt.Errorf("no configuration: give a file or a folder, %s", example)
	case slices.Contains(paths, ""):
		return fmt.Errorf("the name of the configuration is empty: give a file or a folder, %s", example)
	}
	return nil
}

func buildOptions(paths []string, format, level string) (daemon.Options, error) {
	o := daemon.Options{Paths: paths, Format: format}
	if format != "text" && format != "json" {
		return o, fmt.Errorf("--log-format %q: text or json", format)
	}
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	var known bool
	if o.Level, known = levels[level]; !known {
		return o, fmt.Errorf("--log-level %q: debug, info, warn or error", level)
	}
	return o, nil
}

// parseMemory reads --memory-max.
func parseMemory(text string) (uint64, error) {
	bytes, err := daemon.ParseSize(text)
	if err == nil && bytes < 1<<20 {
		err = errors.New("less than 1M")
	}
	if err != nil {
		return 0, fmt.Errorf("--memory-max %q: %w", text, err)
	}
	return bytes, nil
}

// serveConfig runs the daemon until a signal ends it.
func serveConfig(o daemon.Options) error {
	ctx, stop := untilSignal(syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	return daemon.Run(ctx, o, reload)
}

// untilSignal returns a context that one of these signals ends. A second one ends the program.
func untilSignal(which ...os.Signal) (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = context.WithCancel(context.Background())
	// A handler instead of ignoring: what is ignored stays so in every child.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ends := make(chan os.Signal, 2)
	signal.Notify(ends, which...)
	go endOn(ends, stop, func() {
		fmt.Fprintln(os.Stderr, "activator: a second signal: ended at once")
		os.Exit(exitFailed)
	})
	return ctx, stop
}

// sameRequest is how long further signals belong to the first one. timeout(1) signals
// its child and then its group, which the child is in; a supervisor may stop a process
// and then its control group; a user may press a key twice.
const sameRequest = time.Second

// endOn calls stop at the first signal, and atOnce at the next one that comes
// sameRequest after it or later. On a busy machine this goroutine may run late: what
// waits in ends when the time is over came before, and is dropped.
func endOn(ends <-chan os.Signal, stop, atOnce func()) {
	<-ends
	stop()
	<-time.After(sameRequest)
	for range len(ends) {
		<-ends
	}
	<-ends
	atOnce()
}

func checkCommand(paths *[]string) *cobra.Command {
	var o daemon.CheckOptions
	check := &cobra.Command{
		Use:   "check --config FILE|DIR...",
		Short: "Say what is wrong with the configuration here, and change nothing",
		Long: `check reads the configuration and looks at the host as a start does: at users,
programs with their interpreters and libraries, mounts, folders, sockets' paths and
options, and at what the kernel lets a sandbox do. What it says the start says too,
before it binds anything, in the same words and with the same exit code: 2 for what
the configuration can cure, 1 for what only the host can.

It binds, makes and changes nothing, and does not ask whether somebody has a port:
that may be an activator that runs with this very configuration.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Paths = append(append([]string{}, *paths...), args...)
			if err := checkPaths(o.Paths, "check --config configs/echo.toml"); err != nil {
				return err
			}
			return failWith(daemon.Check(context.Background(), o, cmd.OutOrStdout()))
		},
	}
	check.Flags().BoolVarP(&o.Verbose, "verbose", "v", false, "print the effective configuration, as TOML that can be fed back")
	check.Flags().BoolVar(&o.Offline, "offline", false, "look at the text alone, not at this host")
	return check
}

func tryCommand(paths *[]string) *cobra.Command {
	var level string
	var limit time.Duration
	try := &cobra.Command{
		Use:   "try FILE",
		Short: "Run one service, and print the configuration that it needs",
		Long: `try runs the service of a configuration in the foreground, which may say nothing but
listen and exec. It lets a client in, and sees every call that the program is refused,
every path that it does not get at, and every address that it binds itself. When the
program ends, or at ^C, it prints the file with the least added by which the run would
have lacked nothing. What the file says stays as it is written. Each key that is added has
a comment: read them, since some open something. What a program lacks later it looks for
later: try the result once more.

The log goes to stderr. The program is slower than usual.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			files := append(append([]string{}, *paths...), args...)
			if len(files) != 1 {
				return errors.New("give one file: try configs/echo.toml")
			}
			if err := checkPaths(files, "try configs/echo.toml"); err != nil {
				return err
			}
			options, err := buildOptions(files, "text", level)
			if err != nil {
				return err
			}
			return failWith(tryConfig(options, limit, cmd.OutOrStdout()))
		},
	}
	try.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	try.Flags().DurationVar(&limit, "for", 0, "end after that long, such as 10s; else at ^C")
	return try
}

// tryConfig tries a service until it ends, a signal comes, or the time is over; 0: it is never.
func tryConfig(o daemon.Options, limit time.Duration, w io.Writer) error {
	ctx, stop := untilSignal(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP) // its terminal may be closed
	defer stop()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return daemon.Try(ctx, o, w)
}

func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what this kernel and this user can do, and how to get what is missing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !doctor.Report(cmd.OutOrStdout()) {
				return &runError{err: errors.New("the default sandbox cannot work here"), code: exitFailed, quiet: true}
			}
			return nil
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(cmd.OutOrStdout(), printVersion())
		},
	}
}

// printVersion is what the build recorded: the module's version, or the revision.
func printVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "activator (unknown)"
	}
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	parts := []string{"activator", info.Main.Version}
	if rev := settings["vcs.revision"]; rev != "" && !strings.Contains(info.Main.Version, rev[:min(12, len(rev))]) {
		parts = append(parts, rev)
	}
	return strings.Join(append(parts, info.GoVersion, settings["GOOS"]+"/"+settings["GOARCH"]), " ")
}
