locals {
  read_models = [
    for bucket, prefixes in local.prefixes : {
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = [for prefix in prefixes : "arn:${var.partition}:s3:::${bucket}/${prefix == "" ? "*" : "${prefix}/*"}"]
    }
  ]
  # Without a condition where the whole bucket is the model's.
  list_models = [
    for bucket, prefixes in local.prefixes : merge(
      {
        Effect   = "Allow"
        Action   = ["s3:ListBucket"]
        Resource = ["arn:${var.partition}:s3:::${bucket}"]
      },
      { for key in contains(prefixes, "") ? [] : ["Condition"] : key => {
        StringLike = { "s3:prefix" = [for prefix in prefixes : "${prefix}/*"] }
      } }
    )
  ]

  config      = trimprefix(var.model_config_file, "s3://")
  read_config = local.config == "" ? [] : ["arn:${var.partition}:s3:::${local.config}"]
  # It is looked for among what is beside it, by one client; and by its name, by the other.
  list_config = local.config == "" ? [] : [{
    bucket = split("/", local.config)[0]
    key    = join("/", slice(split("/", local.config), 1, length(split("/", local.config))))
    beside = join("", [for part in slice(split("/", local.config), 1, length(split("/", local.config)) - 1) : "${part}/"])
  }]

  statements = concat(
    local.read_models,
    local.list_models,
    [for arn in local.read_config : { Effect = "Allow", Action = ["s3:GetObject"], Resource = [arn] }],
    [for config in local.list_config : merge(
      {
        Effect   = "Allow"
        Action   = ["s3:ListBucket"]
        Resource = ["arn:${var.partition}:s3:::${config.bucket}"]
      },
      { for key in config.beside == "" ? [] : ["Condition"] : key => {
        StringLike = { "s3:prefix" = [config.beside, config.key] }
      } }
    )],
    [for arn in compact([var.model_kms_key_arn]) : { Effect = "Allow", Action = ["kms:Decrypt"], Resource = [arn] }],
    [{ Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${var.log_group_arn}:*"] }],
    # X-Ray has no resources to name.
    [for mode in [var.tracing_mode] : {
      Effect   = "Allow"
      Action   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
      Resource = ["*"]
    } if mode == "Active"],
  )
}
