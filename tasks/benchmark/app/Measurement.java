package mobiledense;

import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.Callable;

/** Times calls as the benchmark does: warm-up, then runs, of which a share at either end does not count. */
final class Measurement {
    final double trimmed, median, p90, least, most;

    private Measurement(double[] sorted, double trim) {
        int cut = (int) (trim * sorted.length);
        trimmed = Arrays.stream(sorted, cut, sorted.length - cut).average().getAsDouble();
        median = at(sorted, 0.5);
        p90 = at(sorted, 0.9);
        least = sorted[0];
        most = sorted[sorted.length - 1];
    }

    /** Makes untimed and then timed calls. */
    static Measurement of(Callable<?> call, int warmup, int runs, double trim) throws Exception {
        for (int index = 0; index < warmup; index++) call.call();
        double[] times = new double[runs];
        for (int index = 0; index < runs; index++) {
            long start = System.nanoTime();
            call.call();
            times[index] = (System.nanoTime() - start) / 1e6;
        }
        return of(times, trim);
    }

    /** Statistics of times, ms. */
    static Measurement of(double[] times, double trim) {
        double[] sorted = times.clone();
        Arrays.sort(sorted);
        return new Measurement(sorted, trim);
    }

    /** Largest difference of two outputs, in parts of the largest expected magnitude. */
    static double difference(float[] expected, float[] found) {
        if (expected.length != found.length) return Double.POSITIVE_INFINITY;
        double largest = 1e-12, apart = 0;
        for (int index = 0; index < expected.length; index++) {
            largest = Math.max(largest, Math.abs(expected[index]));
            double gap = Math.abs((double) expected[index] - found[index]);
            apart = Double.isNaN(gap) ? Double.POSITIVE_INFINITY : Math.max(apart, gap);
        }
        return apart / largest;
    }

    /** As JSON, in ms. */
    @Override
    public String toString() {
        return String.format(
            Locale.ROOT, "\"trimmed_ms\": %.4f, \"median_ms\": %.4f, \"p90_ms\": %.4f, \"min_ms\": %.4f, \"max_ms\": %.4f",
            trimmed, median, p90, least, most);
    }

    /** Quantile by linear interpolation, as NumPy's. */
    private static double at(double[] sorted, double share) {
        double place = share * (sorted.length - 1);
        int below = (int) place, above = Math.min(below + 1, sorted.length - 1);
        return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
    }
}
