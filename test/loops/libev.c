// A server of libev, which puts its sockets into its epoll before it binds them.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ev.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// answer sends back what a client has sent, or ends the program if it was asked to.
static void answer(int fd, struct sockaddr *from, socklen_t *size)
{
	char data[64];
	ssize_t n = recvfrom(fd, data, sizeof data, 0, from, size);

	if (n > 0 && data[0] == 'q')
		_exit(1);
	if (n > 0)
		sendto(fd, data, n, 0, from, size ? *size : 0);
}

static void read_client(struct ev_loop *loop, ev_io *w, int events)
{
	answer(w->fd, NULL, NULL);
	ev_io_stop(loop, w);
	close(w->fd);
	free(w);
}

static void accept_client(struct ev_loop *loop, ev_io *w, int events)
{
	int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK);

	if (fd >= 0) {
		ev_io *client = malloc(sizeof *client);

		ev_io_init(client, read_client, fd, EV_READ);
		ev_io_start(loop, client);
	}
}

static void read_datagram(struct ev_loop *loop, ev_io *w, int events)
{
	struct sockaddr_storage from;
	socklen_t size = sizeof from;

	answer(w->fd, (struct sockaddr *)&from, &size);
}

// watch makes a socket and has it watched. It is in the epoll when the loop has run, and not before.
static int watch(struct ev_loop *loop, ev_io *w, int family, int type, void (*ready)(struct ev_loop *, ev_io *, int))
{
	int fd = socket(family, type | SOCK_NONBLOCK, 0);

	ev_io_init(w, ready, fd, EV_READ);
	ev_io_start(loop, w);
	ev_run(loop, EVRUN_NOWAIT);
	return fd;
}

int main(void)
{
	struct sockaddr_in6 port = {.sin6_family = AF_INET6, .sin6_port = htons(5000)};
	struct sockaddr_un path = {.sun_family = AF_UNIX, .sun_path = "/run/s"};
	struct ev_loop *loop = ev_loop_new(EVBACKEND_EPOLL);
	ev_io streams, paths, datagrams;
	int s = watch(loop, &streams, AF_INET6, SOCK_STREAM, accept_client);
	int p = watch(loop, &paths, AF_UNIX, SOCK_STREAM, accept_client);
	int d = watch(loop, &datagrams, AF_INET6, SOCK_DGRAM, read_datagram);

	if (bind(s, (struct sockaddr *)&port, sizeof port) || listen(s, 100) || bind(p, (struct sockaddr *)&path, sizeof path) ||
	    listen(p, 100) || bind(d, (struct sockaddr *)&port, sizeof port))
		return 2;
	ev_run(loop, 0);
	return 3;
}
