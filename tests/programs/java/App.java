// SPDX-License-Identifier: Apache-2.0

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** An HTTP server on a full JVM: a garbage-collected heap, compiled code, thread pools, schedulers, direct memory. */
public final class App {
  private interface Verb {
    Object answer(Map<String, String> query) throws Exception;
  }

  private static final int WORKERS = 16;

  private final Map<Integer, byte[]> heap = new HashMap<>();
  private final Random random = new Random(42);
  private final AtomicLong counter = new AtomicLong();
  private final ThreadLocal<Long> sum = ThreadLocal.withInitial(() -> 0L);
  private final List<ExecutorService> workers = new ArrayList<>();
  private final ByteBuffer direct = ByteBuffer.allocateDirect(4 << 20);
  private final Object ticked = new Object();
  private long fixedRate;
  private long delayed;

  private App(ScheduledExecutorService scheduler) {
    for (int i = 0; i < WORKERS; i++) {
      workers.add(Executors.newSingleThreadExecutor(App::daemon));
    }
    scheduler.scheduleAtFixedRate(() -> tick(true), 10, 10, TimeUnit.MILLISECONDS);
    scheduler.scheduleWithFixedDelay(() -> tick(false), 25, 25, TimeUnit.MILLISECONDS);
    for (int i = 0; i < direct.capacity(); i += 8) {
      direct.putLong(i, mix(i));
    }
  }

  private static Thread daemon(Runnable task) {
    Thread thread = new Thread(task);
    thread.setDaemon(true);
    return thread;
  }

  private void tick(boolean rate) {
    synchronized (ticked) {
      if (rate) {
        fixedRate++;
      } else {
        delayed++;
      }
      ticked.notifyAll();
    }
  }

  private Object ticks(Map<String, String> query) throws InterruptedException {
    synchronized (ticked) {
      long wantRate = fixedRate + 5;
      long wantDelayed = delayed + 2;
      while (fixedRate < wantRate || delayed < wantDelayed) {
        ticked.wait();
      }
    }
    return true;
  }

  /** Called often enough to be compiled by C2. */
  private static long mix(long x) {
    x ^= x >>> 33;
    x *= 0xff51afd7ed558ccdL;
    x ^= x >>> 33;
    x *= 0xc4ceb9fe1a85ec53L;
    return x ^ (x >>> 33);
  }

  private static Object hot(Map<String, String> query) {
    long sum = 0;
    for (long i = 0; i < Long.parseLong(query.get("n")); i++) {
      sum += mix(i);
    }
    return Long.toString(sum);
  }

  /** Fills the heap; half of what is made is garbage, so that the collector moves the rest. */
  private synchronized Object fill(Map<String, String> query) {
    int n = Integer.parseInt(query.get("n"));
    for (int i = 0; i < n; i++) {
      byte[] garbage = new byte[1024];
      random.nextBytes(garbage);
      heap.put(heap.size(), garbage.clone());
    }
    return heap.size();
  }

  private synchronized String digest() throws Exception {
    MessageDigest digest = MessageDigest.getInstance("SHA-256");
    for (int i = 0; i < heap.size(); i++) {
      digest.update(heap.get(i));
    }
    digest.update(direct.duplicate().clear());
    return HexFormat.of().formatHex(digest.digest());
  }

  private Object snapshot(Map<String, String> query) throws Exception {
    return new TreeMap<>(Map.of("counter", counter.get(), "size", heap.size(), "digest", '"' + digest() + '"'));
  }

  private synchronized Object draw(Map<String, String> query) {
    return random.nextInt();
  }

  /** Each worker is one thread with its own running sum in a ThreadLocal. */
  private Object work(Map<String, String> query) throws Exception {
    long n = Long.parseLong(query.get("n"));
    List<Future<Long>> answers = new ArrayList<>();
    for (int i = 0; i < WORKERS; i++) {
      final long index = i;
      Callable<Long> task = () -> {
        sum.set(sum.get() * 31 + n + index);
        return sum.get();
      };
      answers.add(workers.get(i).submit(task));
    }
    List<String> result = new ArrayList<>();
    for (Future<Long> answer : answers) {
      result.add('"' + Long.toString(answer.get()) + '"');
    }
    return result;
  }

  private Object collect(Map<String, String> query) throws Exception {
    System.gc();
    return digest();
  }

  private Object identity(Map<String, String> query) {
    // System.nanoTime is CLOCK_MONOTONIC on Linux.
    return new TreeMap<>(Map.of("pid", ProcessHandle.current().pid(), "clock", System.nanoTime()));
  }

  /** As much JSON as the answers need; texts within lists and maps come quoted already. */
  private static String json(Object answer) {
    if (answer instanceof Map<?, ?> map) {
      StringBuilder text = new StringBuilder("{");
      map.forEach((key, value) -> text.append(text.length() > 1 ? "," : "").append('"').append(key).append("\":").append(value));
      return text.append('}').toString();
    }
    return answer instanceof String ? '"' + answer.toString() + '"' : String.valueOf(answer);
  }

  private static Map<String, String> query(URI uri) {
    Map<String, String> result = new HashMap<>();
    for (String pair : uri.getQuery() == null ? new String[0] : uri.getQuery().split("&")) {
      String[] parts = pair.split("=", 2);
      result.put(parts[0], parts.length > 1 ? parts[1] : "");
    }
    return result;
  }

  private static void handle(HttpExchange exchange, Verb verb) throws IOException {
    int status = 200;
    String text;
    try {
      text = json(verb.answer(query(exchange.getRequestURI())));
    } catch (Exception error) {
      status = 500;
      text = error.toString();
    }
    byte[] body = text.getBytes(StandardCharsets.UTF_8);
    exchange.sendResponseHeaders(status, body.length);
    exchange.getResponseBody().write(body);
    exchange.close();
  }

  public static void main(String[] arguments) throws Exception {
    App app = new App(Executors.newScheduledThreadPool(2, App::daemon));
    InetSocketAddress address = new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.parseInt(arguments[0]));
    HttpServer server = HttpServer.create(address, 64);
    server.setExecutor(Executors.newFixedThreadPool(8));
    Map<String, Verb> verbs = Map.of("/identity", app::identity, "/snapshot", app::snapshot, "/fill", app::fill,
        "/hot", App::hot, "/work", app::work, "/ticks", app::ticks, "/draw", app::draw, "/collect", app::collect,
        "/count", q -> app.counter.incrementAndGet());
    verbs.forEach((path, verb) -> server.createContext(path, exchange -> handle(exchange, verb)));
    server.start();
    Files.writeString(Path.of(arguments[1]), "ready\n", java.nio.file.StandardOpenOption.WRITE);
  }
}
