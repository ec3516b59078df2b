// A server of Asio: it puts a socket into its epoll when it opens it, before it binds it.
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/ip/udp.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/write.hpp>
#include <cstdlib>
#include <memory>

using asio::error_code;

// answer ends the program if it was asked to, and otherwise returns what is to be sent back.
static asio::const_buffer answer(const char *data, size_t n)
{
	if (n > 0 && data[0] == 'q')
		_Exit(1);
	return asio::buffer(data, n);
}

template <class Protocol> struct client : std::enable_shared_from_this<client<Protocol>> {
	typename Protocol::socket socket;
	char data[64];

	client(typename Protocol::socket s) : socket(std::move(s)) {}

	void serve()
	{
		auto self = this->shared_from_this();
		socket.async_read_some(asio::buffer(data), [self](error_code, size_t n) {
			asio::async_write(self->socket, answer(self->data, n), [self](error_code, size_t) {});
		});
	}
};

template <class Protocol> struct server {
	typename Protocol::acceptor acceptor;

	server(asio::io_context &context, typename Protocol::endpoint at) : acceptor(context)
	{
		acceptor.open(at.protocol());
		acceptor.bind(at);
		acceptor.listen();
		accept();
	}

	void accept()
	{
		acceptor.async_accept([this](error_code failed, typename Protocol::socket s) {
			if (failed)
				_Exit(2);
			std::make_shared<client<Protocol>>(std::move(s))->serve();
			accept();
		});
	}
};

struct datagrams {
	asio::ip::udp::socket socket;
	asio::ip::udp::endpoint from;
	char data[64];

	datagrams(asio::io_context &context, asio::ip::udp::endpoint at) : socket(context, at) { receive(); }

	void receive()
	{
		socket.async_receive_from(asio::buffer(data), from, [this](error_code, size_t n) {
			socket.async_send_to(answer(data, n), from, [this](error_code, size_t) { receive(); });
		});
	}
};

int main()
{
	asio::io_context context;
	server<asio::ip::tcp> stream(context, {asio::ip::tcp::v6(), 5000});
	server<asio::local::stream_protocol> path(context, {"/run/s"});
	datagrams datagram(context, {asio::ip::udp::v6(), 5000});
	context.run();
}
