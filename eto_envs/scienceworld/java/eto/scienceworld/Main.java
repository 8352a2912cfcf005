package eto.scienceworld;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;

/**
 * Hosts many worlds of the ScienceWorld simulator in one process, behind standard input and output.
 *
 * <p>{@code java -cp host.jar eto.scienceworld.Main scienceworld.jar WORKERS [plain] [same-hash]}.
 * It first writes a byte: 'F' if the simulator was made faster, or 'P' for plain, on request or if
 * the simulator is not the expected build. Then it responds to request frames, in the order in
 * which they arrive (see {@link Server} for their content). The process exits when its input is
 * closed, so it never outlives its owner, whatever it is doing at that time.
 *
 * <p>The number of a world determines its {@link Worker}. Each worker has its own simulator, whose
 * global variables are separate from the others', and is started when it is first needed.
 * Requests that concern no world are handled by the first worker.
 */
public final class Main {
  private static final int BUFFER_BYTES = 1 << 16;

  /** Every reload leaves 0.4 MB of garbage, which Java would let grow up to the heap limit. */
  private static final int LOADS_PER_COLLECTION = 64;

  private Main() {}

  /** Serves until the input is closed. */
  public static void main(String[] arguments) throws Exception {
    // The simulator prints a lot; its Console takes System.out when it is first used.
    System.setOut(new PrintStream(OutputStream.nullOutputStream()));
    List<String> options = List.of(arguments);
    Worker[] workers = new Worker[Integer.parseInt(options.get(1))];
    boolean sameHash = options.contains("same-hash");
    workers[0] = new Worker(options.get(0), sameHash);
    BlockingQueue<Future<byte[]>> answers = new LinkedBlockingQueue<>();
    Thread writer = new Thread(() -> write(answers), "answers");
    writer.setDaemon(true);
    answers.add(workers[0].open(!options.contains("plain")));
    writer.start();
    DataInputStream in = new DataInputStream(new BufferedInputStream(System.in, BUFFER_BYTES));
    int nLoaded = 0;
    try {
      while (true) {
        byte[] frame = new byte[in.readInt()];
        in.readFully(frame);
        int number = Math.max(ByteBuffer.wrap(frame).getInt(), 0) % workers.length;
        if (workers[number] == null) {
          workers[number] = new Worker(options.get(0), sameHash);
          workers[number].open(workers[0].isFast());
        }
        answers.add(workers[number].answer(frame));
        if (frame[Server.AT_OPERATION] == Server.REPLAY && ++nLoaded % LOADS_PER_COLLECTION == 0) {
          System.gc();
        }
      }
    } catch (EOFException end) {
      Runtime.getRuntime().halt(0);
    }
  }

  /** Writes responses as they become available, in the order of the requests. */
  private static void write(BlockingQueue<Future<byte[]>> answers) {
    try (DataOutputStream out =
        new DataOutputStream(
            new BufferedOutputStream(new FileOutputStream(FileDescriptor.out), BUFFER_BYTES))) {
      out.write(answers.take().get());
      while (true) {
        Future<byte[]> next = answers.peek();
        if (next == null || !next.isDone()) {
          out.flush();
        }
        byte[] answer = answers.take().get();
        out.writeInt(answer.length);
        out.write(answer);
      }
    } catch (Exception error) {
      (error instanceof ExecutionException ? error.getCause() : error).printStackTrace();
      Runtime.getRuntime().halt(1);
    }
  }
}
