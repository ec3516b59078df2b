<?php echo "php ", $_GET["q"] ?? "", "\n";
