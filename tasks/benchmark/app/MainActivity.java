package mobiledense;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxValue;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtSession;
import android.app.Activity;
import android.os.Build;
import android.os.Bundle;
import android.widget.TextView;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.Locale;
import java.util.Map;

/** Runs the artifact on the sample, says whether the outputs are those of the machine that made it, and times it. */
public final class MainActivity extends Activity {
    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        TextView text = new TextView(this);
        text.setTextIsSelectable(true);
        text.setText("measuring ...");
        setContentView(text);
        new Thread(() -> {
            String told;
            try {
                told = measured();
            } catch (Throwable error) {
                told = String.valueOf(error);
            }
            String shown = told;
            runOnUiThread(() -> text.setText(shown));
        }).start();
    }

    private String measured() throws Exception {
        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        OrtSession.SessionOptions options = new OrtSession.SessionOptions();
        options.setIntraOpNumThreads(Settings.THREADS);
        options.setInterOpNumThreads(1);
        try (OrtSession session = environment.createSession(asset(Settings.ARTIFACT), options);
                OnnxTensor images = images(environment)) {
            Map<String, OnnxTensor> inputs = Collections.singletonMap(Settings.INPUT, images);
            StringBuilder same = new StringBuilder();
            try (OrtSession.Result found = session.run(inputs, new HashSet<>(Arrays.asList(Settings.OUTPUTS)))) {
                for (String name : Settings.OUTPUTS) {
                    double apart = Measurement.difference(expected(name), values(found.get(name).get()));
                    same.append(String.format(Locale.ROOT, "\"%s\": %.3g, ", name, apart));
                }
            }
            Measurement times = Measurement.of(() -> {
                try (OrtSession.Result result = session.run(inputs)) {
                    return null;
                }
            }, Settings.WARMUP, Settings.RUNS, Settings.TRIM);
            same.setLength(Math.max(0, same.length() - 2));
            return String.format(
                Locale.ROOT, "{\"device\": \"%s %s\", \"os\": \"Android %s\", \"threads\": %d, \"difference\": {%s}, %s}",
                Build.MANUFACTURER, Build.MODEL, Build.VERSION.RELEASE, Settings.THREADS, same, times);
        }
    }

    private OnnxTensor images(OrtEnvironment environment) throws Exception {
        byte[] bytes = asset("images.bin");
        ByteBuffer buffer = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.nativeOrder());
        buffer.put(bytes).rewind();
        return OnnxTensor.createTensor(environment, buffer, Settings.SHAPE, OnnxJavaType.valueOf(Settings.TYPE));
    }

    private float[] expected(String name) throws IOException {
        ByteBuffer stored = ByteBuffer.wrap(asset(name + ".bin")).order(ByteOrder.LITTLE_ENDIAN);
        float[] values = new float[stored.remaining() / 4];
        stored.asFloatBuffer().get(values);
        return values;
    }

    private static float[] values(OnnxValue value) throws Exception {
        OnnxTensor tensor = (OnnxTensor) value;
        int count = 1;
        for (long size : tensor.getInfo().getShape()) count *= (int) size;
        float[] values = new float[count];
        ByteBuffer bytes = tensor.getByteBuffer().order(ByteOrder.nativeOrder());
        for (int index = 0; index < count; index++) {
            switch (tensor.getInfo().type) {
                case FLOAT: values[index] = bytes.getFloat(4 * index); break;
                case INT64: values[index] = bytes.getLong(8 * index); break;
                case INT32: values[index] = bytes.getInt(4 * index); break;
                default: values[index] = bytes.get(index) & 0xff;
            }
        }
        return values;
    }

    private byte[] asset(String name) throws IOException {
        try (InputStream stream = getAssets().open(name); ByteArrayOutputStream out = new ByteArrayOutputStream()) {
            byte[] part = new byte[1 << 16];
            for (int count = stream.read(part); count >= 0; count = stream.read(part)) out.write(part, 0, count);
            return out.toByteArray();
        }
    }
}
