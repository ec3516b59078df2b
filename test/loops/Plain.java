import java.net.*;
import java.nio.channels.*;
import java.nio.file.Path;

// A server with the sockets of java.net, and a channel that blocks. Each waits in a thread of its own, and so does each client.
class Plain {
	interface Task {
		void run() throws Exception;
	}

	public static void main(String[] args) throws Exception {
		start(Plain::serveDatagrams);
		start(Plain::servePath);
		try (var stream = new ServerSocket(5000)) {
			while (true) {
				var client = stream.accept();
				start(() -> serve(client, client.getInputStream(), client.getOutputStream()));
			}
		}
	}

	static void start(Task task) {
		new Thread(() -> {
			try {
				task.run();
			} catch (Exception e) {
				e.printStackTrace();
				System.exit(2);
			}
		}).start();
	}

	static void serveDatagrams() throws Exception {
		var datagram = new DatagramSocket(5000);
		while (true) {
			var packet = new DatagramPacket(new byte[64], 64);
			datagram.receive(packet);
			datagram.send(packet);
		}
	}

	static void servePath() throws Exception {
		var path = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
		path.bind(UnixDomainSocketAddress.of(Path.of("/run/s")));
		while (true) {
			var client = path.accept();
			start(() -> serve(client, Channels.newInputStream(client), Channels.newOutputStream(client)));
		}
	}

	static void serve(java.io.Closeable client, java.io.InputStream in, java.io.OutputStream out) throws Exception {
		try (client) {
			var buffer = new byte[64];
			int n = in.read(buffer);
			if (buffer[0] == 'q')
				System.exit(1);
			out.write(buffer, 0, n);
		}
	}
}
