// SPDX-License-Identifier: Apache-2.0
//
// GET /?seed=N: the N-th block of primes below two million, as text.
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.BitSet;

final class Primes {
  private static final int LIMIT = 2_000_000;
  private static final BitSet COMPOSITE = new BitSet(LIMIT);

  private static String block(int seed) {
    StringBuilder out = new StringBuilder();
    int next = 2 + seed * 1000;
    for (int i = 0; i < 100; i++) {
      next = COMPOSITE.nextClearBit(next);
      out.append(next++).append('\n');
    }
    return out.toString();
  }

  public static void main(String[] arguments) throws IOException {
    for (int i = 2; (long) i * i < LIMIT; i++) {
      if (COMPOSITE.get(i)) continue;
      for (int j = i * i; j < LIMIT; j += i) COMPOSITE.set(j);
    }
    String address = System.getenv().getOrDefault("ADDRESS", "127.0.0.1");
    int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
    HttpServer server = HttpServer.create(new InetSocketAddress(address, port), 0);
    server.createContext("/", exchange -> {
      String query = exchange.getRequestURI().getQuery();
      int seed = query == null ? 0 : Integer.parseInt(query.substring("seed=".length()));
      byte[] body = block(seed).getBytes(StandardCharsets.US_ASCII);
      exchange.sendResponseHeaders(200, body.length);
      try (var stream = exchange.getResponseBody()) {
        stream.write(body);
      }
    });
    server.start();
  }
}
