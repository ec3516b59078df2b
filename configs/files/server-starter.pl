use strict;
use warnings;
use IO::Socket::INET;
use Server::Starter qw(server_ports);

my ($fd) = values %{ server_ports() };
my $listener = IO::Socket::INET->new_from_fd($fd, "r+") or die "fd $fd: $!";
while (my $client = $listener->accept) {
	while (my $line = <$client>) { last if $line eq "\r\n" }
	print $client "HTTP/1.0 200 OK\r\n\r\nserver-starter\n";
	close $client;
}
