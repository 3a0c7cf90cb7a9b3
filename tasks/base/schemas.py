"""The schema of each tool, by the name that conf/<tool>.yaml has for it."""

from tasks.base.config import (
    BenchmarkConfig,
    CompareConfig,
    DataConfig,
    DescribeConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    ImportWeightsConfig,
    PredictConfig,
    TrainConfig,
    TuneConfig,
)
from tasks.base.search_config import SearchConfig

SCHEMAS = {
    "train_schema": TrainConfig,
    "tune_schema": TuneConfig,
    "evaluate_schema": EvaluateConfig,
    "predict_schema": PredictConfig,
    "describe_schema": DescribeConfig,
    "compare_schema": CompareConfig,
    "data_schema": DataConfig,
    "doctor_schema": DoctorConfig,
    "import_weights_schema": ImportWeightsConfig,
    "export_schema": ExportConfig,
    "benchmark_schema": BenchmarkConfig,
    "search_schema": SearchConfig,
}
