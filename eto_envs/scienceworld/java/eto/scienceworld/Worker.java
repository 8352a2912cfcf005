package eto.scienceworld;

import java.io.IOException;
import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.net.URL;
import java.nio.file.Path;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** A thread with its own simulator, in its own class loader. */
final class Worker {
  private static final long STACK_BYTES = 64L << 20; // the simulator walks its trees recursively

  private final ExecutorService thread = Executors.newSingleThreadExecutor(Worker::makeThread);
  private final URL simulator;
  private final boolean sameHash;
  private volatile boolean isFast;
  private Future<byte[]> opened;
  private Object server; // a Server, but of the other loader
  private Method answer;

  Worker(String simulator, boolean sameHash) throws IOException {
    this.simulator = Path.of(simulator).toUri().toURL();
    this.sameHash = sameHash;
  }

  private static Thread makeThread(Runnable work) {
    Thread thread = new Thread(null, work, "worlds", STACK_BYTES);
    thread.setDaemon(true);
    return thread;
  }

  /** Loads the simulator, faster if requested and possible; returns the byte that says so. */
  Future<byte[]> open(boolean fast) {
    opened =
        thread.submit(
            () -> {
              isFast = fast && openFast();
              if (!isFast) {
                open(false, sameHash);
              }
              return new byte[] {(byte) (isFast ? 'F' : 'P')};
            });
    return opened;
  }

  /** Whether the simulator was made faster, once it is loaded. */
  boolean isFast() {
    return isFast;
  }

  /** Responds to a frame, after all earlier ones. */
  Future<byte[]> answer(byte[] frame) {
    return thread.submit(
        () -> {
          opened.get(); // is done; throws what went wrong, if something did
          return (byte[]) answer.invoke(server, frame);
        });
  }

  private boolean openFast() throws IOException {
    try {
      open(true, sameHash);
      return true;
    } catch (ReflectiveOperationException | LinkageError | IllegalStateException error) {
      error.printStackTrace();
      return false;
    }
  }

  private void open(boolean fast, boolean sameHash)
      throws IOException, ReflectiveOperationException {
    URL own = Worker.class.getProtectionDomain().getCodeSource().getLocation();
    SimulatorLoader loader = new SimulatorLoader(new URL[] {simulator, own}, fast, sameHash);
    Class<?> type = loader.loadClass("eto.scienceworld.Server");
    Constructor<?> constructor = type.getDeclaredConstructor(boolean.class);
    constructor.setAccessible(true);
    try {
      server = constructor.newInstance(fast);
    } catch (InvocationTargetException error) {
      throw new ReflectiveOperationException(error.getCause());
    }
    answer = type.getDeclaredMethod("answer", byte[].class);
    answer.setAccessible(true);
  }
}
