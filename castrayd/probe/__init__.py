"""What can be known of a cluster without Ray and without joining it. Never imports ray."""
