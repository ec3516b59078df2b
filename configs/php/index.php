<?php
header("Content-Type: text/plain");
if ($_SERVER["REQUEST_METHOD"] === "POST") {
	$body = file_get_contents("php://input");
	echo strlen($body), " bytes, ", hash("sha256", $body), "\n";
} elseif (isset($_GET["lines"])) {
	echo str_repeat("0123456789abcde\n", (int) $_GET["lines"]);
} else {
	echo "php ", $_GET["q"] ?? "", " for ", $_SERVER["REMOTE_ADDR"], "\n";
}
