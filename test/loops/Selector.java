import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.Path;

// A server of Java NIO: its channels are in the selector's epoll before they are bound.
class Selector {
	static final ByteBuffer buffer = ByteBuffer.allocate(64);

	public static void main(String[] args) throws Exception {
		var selector = java.nio.channels.Selector.open();
		var stream = ServerSocketChannel.open();
		var path = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
		var datagram = DatagramChannel.open();
		for (var c : new ServerSocketChannel[] {stream, path}) {
			c.configureBlocking(false);
			c.register(selector, SelectionKey.OP_ACCEPT);
		}
		datagram.configureBlocking(false);
		datagram.register(selector, SelectionKey.OP_READ);
		selector.selectNow(); // only this puts them into the epoll
		selector.selectedKeys().clear();
		stream.bind(new InetSocketAddress(5000));
		path.bind(UnixDomainSocketAddress.of(Path.of("/run/s")));
		datagram.bind(new InetSocketAddress(5000));
		while (true)
			selector.select(Selector::serve);
	}

	static void serve(SelectionKey key) {
		try {
			buffer.clear();
			if (key.channel() instanceof ServerSocketChannel server) {
				var client = server.accept();
				if (client == null)
					return;
				client.configureBlocking(false);
				client.register(key.selector(), SelectionKey.OP_READ);
			} else if (key.channel() instanceof DatagramChannel datagram) {
				var from = datagram.receive(buffer);
				datagram.send(request(), from);
			} else if (key.channel() instanceof SocketChannel client) {
				client.read(buffer);
				client.write(request());
				client.close();
			}
		} catch (Exception e) {
			e.printStackTrace();
			System.exit(2);
		}
	}

	// request is what the client has sent, to be sent back.
	static ByteBuffer request() {
		if (buffer.flip().get(0) == 'q')
			System.exit(1);
		return buffer;
	}
}
